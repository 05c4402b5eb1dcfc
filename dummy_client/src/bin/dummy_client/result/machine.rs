//! The machine of a run, as the summary has it: without it, two results cannot be compared.

use schemars::JsonSchema;
use serde::Serialize;
use server_core::host::HostLimits;

/// Limits that a load client runs into. `null` is what the system does not tell.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct MachineFacts {
    pub system: String,
    pub cores: usize,
    pub memory_total_bytes: Option<u64>,
    /// As raised at the start.
    pub fd_soft_limit: Option<u64>,
    pub fd_hard_limit: Option<u64>,
    /// Of one address; reserved ports are not counted.
    pub ephemeral_ports: Option<u64>,
    pub somaxconn: Option<u64>,
}

impl From<&HostLimits> for MachineFacts {
    fn from(machine: &HostLimits) -> Self {
        Self {
            system: machine.system.clone(),
            cores: machine.cores,
            memory_total_bytes: machine.memory_total_bytes,
            fd_soft_limit: machine.fd_soft_limit,
            fd_hard_limit: machine.fd_hard_limit,
            ephemeral_ports: machine.ephemeral_ports,
            somaxconn: machine.somaxconn,
        }
    }
}
