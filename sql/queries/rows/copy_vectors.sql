COPY {vectors} ({vector_columns}, chunk, chunk_text, model, embedding, content_hash) FROM STDIN (FORMAT BINARY)
