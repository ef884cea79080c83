"""From names of image files to wells, times and conditions."""
