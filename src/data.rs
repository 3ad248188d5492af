//! Data sets: points of the checkerboard, images in IDX files, CIFAR-10 batches and folders.
