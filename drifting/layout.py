"""Where the samples of a step are."""


class Whole:
    """On one device. `utils.sharding.Layout` has the same methods for a mesh, so that the step does not know of devices.

    groups   a tree of [K, C, ...], K groups of C classes   -> the same, where the classes of each group belong
    classes  a tree of [C, ...] (or [C T, ...])             -> the same, each class whole in one place
    rows     [M, ...], any samples                          -> the same, shared out
    flat     [C, N, ...], N generated samples of each class -> [C N, ...], in an order that keeps samples where they are
    split    [C N, ...] and C                               -> [C, N, ...], the inverse of `flat`
    """

    def groups(self, tree):
        return tree

    def classes(self, tree):
        return tree

    def rows(self, tree):
        return tree

    def flat(self, a):
        return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])

    def split(self, a, classes):
        return a.reshape(classes, a.shape[0] // classes, *a.shape[1:])
