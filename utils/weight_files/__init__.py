"""Files of weights: named tensors, PyTorch files, downloads from the Hugging Face hub."""
