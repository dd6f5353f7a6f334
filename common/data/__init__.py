"""From a folder of images and the tables that come with them to one record an image."""
