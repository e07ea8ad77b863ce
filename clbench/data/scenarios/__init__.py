"""Turn a cut collection into one of the field's scenarios, one a file."""
