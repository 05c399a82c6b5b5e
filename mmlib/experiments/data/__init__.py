"""Data sets and mini-batches, drawn and augmented on the device: the only place with paths and downloads.

==================  ===============================================================================================
digits              scikit-learn's 1,797 digits of 8×8 pixels; by default 10 a class to train on
shapes              drawn, 32×32 colour, boxes known (`draw_shapes`); by default 40 a class to train on
cifar10, cifar100   from `root/<name>.npz` in the layout below, or else through torchvision, downloaded into `root`
                    where it is not there yet; in one order, and refused where not the real images
tinyimagenet        200 classes of 64×64 colour, from `root/tinyimagenet.npz` in the layout below; tested on its
                    validation images, for its test images have no labels; 1.2 GB live on the device
path/to/file.npz    MedMNIST's layout: train_images, train_labels, test_images, test_labels; val_images, val_labels
                    and class_names where there are any; without class_names the labels may be any ids
path/to/folder      `train/<class>/*.png` and `test/<class>/*.png`; `val/<class>/*.png`, or `valid` or `validation`,
                    where there is one; pictures are turned as their EXIF orientation says
==================  ===============================================================================================
"""

from mmlib.experiments.data.batches import Batches
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.files import load_images
from mmlib.experiments.data.shapes import draw_shapes
from mmlib.experiments.data.sources import FIXED_SEED, load, load_test
from mmlib.experiments.data.split import Split

__all__ = ["FIXED_SEED", "Batches", "Dataset", "Split", "draw_shapes", "load", "load_images", "load_test"]
