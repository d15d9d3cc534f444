"""From images to stored features: the compiled extractor, the feature store and the resumable loop
over a dataset."""
