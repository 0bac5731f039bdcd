"""Drifting Models (arXiv 2602.04770): the method as pure functions on arrays.

    step        Algorithm 1: one training step
    fields/     Algorithm 2: the drifting field, and others of its family
    loss        eq. 6 and the normalisations of A.6
    problems    feature sets as independent problems (A.5)
    guidance    classifier-free guidance at training time (Sec. 3.5, A.7)
    bank        the sample bank (A.8)
    battery     several encoders at once, and their balance
    cache       features of reals, stored in the bank in the place of images
    accumulate  a step in groups of classes, for less memory
    measure     what tells how training goes
    memory      what a discrepancy keeps from one step to the next, if anything
    temperature one temperature for each feature set, learned
    state       what a run carries from step to step, and its named randomness
    averages    averages whose width is chosen after the training (EDM2)
    config      the numbers of a step, by the paper's names
    layout      where the samples of a step are on the devices
    distances   distances, and the kernel made of them (eq. 12)
    images      what happens to images before a network sees them

Nothing here imports anything else of this project.
"""

__version__ = "0.1.0"
