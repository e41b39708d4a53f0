//! What the program `kapsule` is made of.
