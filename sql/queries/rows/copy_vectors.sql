COPY {vectors} ({vector_columns}, chunk, chunk_text, model, embedding, content_hash{words_column})
FROM STDIN (FORMAT BINARY)
