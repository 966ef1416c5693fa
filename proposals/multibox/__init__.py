"""MultiBox (Erhan et al., CVPR 2014; Szegedy et al., arXiv:1412.1441): boxes that a network predicts from priors."""
