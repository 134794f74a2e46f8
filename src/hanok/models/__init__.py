"""Step 4: layers, decoder, heads; configurations; reading and writing model directories."""
