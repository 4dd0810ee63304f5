"""Running models on this processor; onnxruntime is known here alone."""
