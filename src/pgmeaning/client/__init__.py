"""What applications use: attach, search, rerank; and the models that they load themselves."""
