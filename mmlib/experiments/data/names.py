"""Names of data sets, and what a data set can be."""

ARCHIVED_DATASETS = ("cifar10", "cifar100", "tinyimagenet")  # kept in `root`
ACCEPTED_NAMES = f"digits, shapes, {', '.join(ARCHIVED_DATASETS)}, a .npz file or a folder of class folders"
