"""Training: the classifier (section 6), R-CNN's fine-tuning, distillation, and the SVM and box-regression stages."""
