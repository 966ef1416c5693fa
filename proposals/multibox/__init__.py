"""MultiBox's arithmetic: boxes that a network predicts from priors on two grids.

Two papers describe MultiBox. In the first (Erhan et al., CVPR 2014), which GoogLeNet cites, one hidden layer over the
whole picture predicts all boxes. In the second (Szegedy et al., arXiv:1412.1441) priors stand on the cells of grids,
and all places share their weights. The second is what lies here: 200 boxes then cover 71 % of the objects, not 51 %.
"""
