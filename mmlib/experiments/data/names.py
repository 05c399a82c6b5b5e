"""Names of data sets, and what a data set can be."""

STORED = ("cifar10", "cifar100", "tinyimagenet")  # in `root`
TAKES = f"digits, shapes, {', '.join(STORED)}, a .npz file or a folder of class folders"
