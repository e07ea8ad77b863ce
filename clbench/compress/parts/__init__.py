"""What token compressors are made of."""
