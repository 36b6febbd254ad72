//! A broker.
