"""The reference pages, each made from what it describes; a test compares them with the code."""
