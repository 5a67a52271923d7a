//! Control plane.
pub mod api;
pub mod config;
pub mod general;
pub mod service;
pub mod web;
