"""Names of data sets, and what a data set can be."""

ARCHIVED_DATASETS = ("cifar10", "cifar100", "tinyimagenet")  # kept in `root`
NAMES = ("digits", "shapes", *ARCHIVED_DATASETS)
ACCEPTED_NAMES = f"{', '.join(NAMES)}, a .npz file or a folder of class folders"
