"""Everything that can go wrong, at the same time, for as long as one likes: `make chaos`. Then nothing may be lost."""
