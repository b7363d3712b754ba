"""What training needs of torch alone: heads, losses, schedules, sampling, augmentation."""
