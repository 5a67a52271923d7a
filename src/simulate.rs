//! A synthetic fabric that speaks sFlow.
