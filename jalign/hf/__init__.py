"""Read and write models in the Hugging Face format, and prove that they compute the same."""
