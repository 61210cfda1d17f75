"""Training data: the corpus of generated samples (`corpus/`). Formats, mixtures and packing are left out for now."""
