//! Where the contracts are: through the one address every network has in its genesis, or as the operator says.

use alloy_primitives::Address;
use alloy_sol_types::SolCall;
use lcai_genesis::{DEFAULT_CHAIN_ID, addresses};
use lcai_host::{Call, HostClient, HostError};
use lcai_primitives::contracts::{
    AIConfig, Deployment, JobRegistry, WORKER_REGISTRY_PREDEPLOY, WorkerRegistry,
};
use serde::Deserialize;

/// Addresses an operator gives, each over what the chain says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AddressBook {
    /// WorkerRegistry's proxy; 0x…1002 unless given.
    pub worker_registry: Option<Address>,
    /// JobRegistry's proxy.
    pub job_registry: Option<Address>,
    /// AIConfig's proxy.
    pub ai_config: Option<Address>,
    /// SessionManager's proxy.
    pub session_manager: Option<Address>,
    /// ReputationRegistry's proxy.
    pub reputation_registry: Option<Address>,
    /// CanaryLedger's proxy.
    pub canary_ledger: Option<Address>,
}

impl AddressBook {
    /// Fills what is missing from the contracts themselves.
    ///
    /// # Errors
    /// When a contract does not answer: the chain has none at that address, or has not reached the block that put it there.
    pub async fn resolve(&self, client: &dyn HostClient) -> eyre::Result<Deployment> {
        let worker_registry = self.worker_registry.unwrap_or(WORKER_REGISTRY_PREDEPLOY);
        let ask = Asker { client, worker_registry };
        let ai_config = match self.ai_config {
            Some(address) => address,
            None => ask.address(worker_registry, WorkerRegistry::aiConfigCall {}, "aiConfig").await?,
        };
        let job_registry = match self.job_registry {
            Some(address) => address,
            None => ask.address(worker_registry, WorkerRegistry::jobRegistryCall {}, "jobRegistry").await?,
        };
        let session_manager = match self.session_manager {
            Some(address) => Some(address),
            None => ask.optional(ai_config, AIConfig::getSessionManagerAddressCall {}).await?,
        };
        let reputation_registry = match self.reputation_registry {
            Some(address) => Some(address),
            None => ask.optional(job_registry, JobRegistry::reputationRegistryCall {}).await?,
        };
        // Nothing on chain names it; on our own chain it is where genesis puts it.
        let own = client.chain_id() == DEFAULT_CHAIN_ID;
        let canary_ledger = self.canary_ledger.or_else(|| own.then_some(addresses::CANARY_LEDGER));
        Ok(Deployment {
            chain_id: client.chain_id(),
            worker_registry,
            ai_config,
            job_registry,
            session_manager,
            reputation_registry,
            canary_ledger,
        })
    }
}

struct Asker<'a> {
    client: &'a dyn HostClient,
    worker_registry: Address,
}

impl Asker<'_> {
    async fn address<C: SolCall<Return = Address>>(
        &self,
        of: Address,
        call: C,
        what: &str,
    ) -> eyre::Result<Address> {
        self.optional(of, call).await?.ok_or_else(|| {
            eyre::eyre!(
                "WorkerRegistry at {} does not say its {what}: is this the right genesis? Otherwise give [contracts] in \
                 the file of --lcai.config",
                self.worker_registry
            )
        })
    }

    /// The address a contract names; `None` when it names none or does not know the call.
    async fn optional<C: SolCall<Return = Address>>(
        &self,
        of: Address,
        call: C,
    ) -> eyre::Result<Option<Address>> {
        let call = Call { to: of, input: call.abi_encode().into() };
        match self.client.call(call, None).await {
            Ok(output) => Ok(C::abi_decode_returns(&output).ok().filter(|address| !address.is_zero())),
            Err(HostError::Reverted(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
