"""Training, proof and export of Keras models. The serving side never imports this package."""
