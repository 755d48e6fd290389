//! Tillwatch.
