"""Scores of sets of images, one file each, usable alone: functions of NumPy arrays of features.

`compare` goes from arrays of images to all of them (docs/metrics.md).

    fid                 Fréchet distance; mean and covariance of a stream
    frechet_error       its error, and what it would be of infinitely many samples
    ratios              Fréchet distances over those of held-out reals, and their mean
    kid                 kernel distance
    inception_score     inception score
    precision_recall    precision and recall, density and coverage
    precision_recall_error
                        their errors
    sliced_wasserstein  sliced Wasserstein distance, and its ratio to that of held-out reals
    sliced_error        its error near the floor
    vendi               how many different images there are: diversity alone
    memorisation        do samples repeat the training images?
    class_agreement     accuracy of a classifier on the images
    neighbours          nearest images, to find copies

`errors` says what a standard error is here. What an image becomes before it is compared is a
feature network: `networks`, with `inception` and `resize`. `collect` runs one over a stream of
images, `statistics` keeps the result in a file, and `table` has the metrics by name. A new metric
is one file and one line there.
"""

from metrics.compare import compare
from metrics.networks import inception, pixels

__all__ = ["compare", "inception", "pixels"]
