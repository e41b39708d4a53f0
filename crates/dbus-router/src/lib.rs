//! Routes the messages of D-Bus clients between two buses.
