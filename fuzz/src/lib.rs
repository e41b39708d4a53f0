//! Fuzz targets for what reads bytes from strangers.
