"""Files into text, tables and images: the port, one file per format, and the process that runs them."""
