//! ixflow
pub mod agent;
pub mod clock;
pub mod command;
pub mod control;
pub mod count;
pub mod decode;
pub mod flush;
pub mod ixp;
pub mod loss;
pub mod pipeline;
pub mod receive;
pub mod resolve;
pub mod simulate;
pub mod sink;
pub mod state;
pub mod worker;
