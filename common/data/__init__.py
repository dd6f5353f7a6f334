"""From what a clinic or a publisher holds (tables, pictures, DICOM, HDF5) to lesion records and pixels."""
