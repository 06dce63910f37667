"""cornet at serving time. Nothing in this package imports TensorFlow, Keras or `training`."""
