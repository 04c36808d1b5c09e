//! The whole of Hawser in a sandbox: the chart is installed, and vCenter and Azure are driven through the simulators' control ports. The demo
//! and the end-to-end tests stand on this.

pub mod azure;
pub mod diary;
pub mod fate;
pub mod install;
pub mod log;
pub mod oracle;
pub mod own;
pub mod pods;
pub mod sandbox;
pub mod vcenter;
pub mod vm;
pub mod wait;

/// Why something did not work, in a sentence.
pub type Result<T, E = String> = std::result::Result<T, E>;
