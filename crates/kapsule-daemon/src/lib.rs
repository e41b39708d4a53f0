//! The `org.kde.kapsule` service.
