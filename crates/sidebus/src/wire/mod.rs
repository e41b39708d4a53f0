//! What agent and broker say to each other.
