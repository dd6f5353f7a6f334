"""From a clinic's folder to the images of a study, divided into training, validation and test part."""
