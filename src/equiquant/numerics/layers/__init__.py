"""One layer as a product of matrices: what it reads, the moments of that, and its weights rounded for them."""
