"""The sections of a page, one a file; each begins with a sentence for somebody new."""
