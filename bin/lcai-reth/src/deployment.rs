//! Where the contracts are: through the one address every network has in its genesis, or as the operator says.

use alloy_primitives::Address;
use alloy_sol_types::SolCall;
use lcai_genesis::{DEFAULT_CHAIN_ID, addresses};
use lcai_host::{Call, HostClient, HostError};
use lcai_primitives::contracts::{
    AIConfig, Deployment, JobRegistry, WORKER_REGISTRY_PREDEPLOY, WorkerRegistry,
};
use serde::{Deserialize, Deserializer, de::Error};
use std::collections::BTreeMap;

/// `[contracts]` of the file: addresses for whatever chain the node is on, and tables named by a chain id for that chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressBooks {
    any: AddressBook,
    of_chain: BTreeMap<u64, AddressBook>,
}

impl AddressBooks {
    /// The addresses for a chain: its own, then those for any.
    pub fn on(&self, chain_id: u64) -> AddressBook {
        self.of_chain.get(&chain_id).copied().unwrap_or_default().or(self.any)
    }
}

impl<'de> Deserialize<'de> for AddressBooks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut any = toml::Table::new();
        let mut of_chain = BTreeMap::new();
        for (name, value) in toml::Table::deserialize(deserializer)? {
            if !value.is_table() {
                any.insert(name, value);
                continue;
            }
            let chain: u64 = name.parse().map_err(|_| {
                D::Error::custom(format!("[contracts.{name}]: expected a chain id, e.g. [contracts.9200]"))
            })?;
            let book = value.try_into().map_err(|e| D::Error::custom(format!("[contracts.{chain}]: {e}")))?;
            of_chain.insert(chain, book);
        }
        Ok(Self { any: any.try_into().map_err(D::Error::custom)?, of_chain })
    }
}

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
    /// These addresses, and the other book's where there is none here.
    fn or(self, other: Self) -> Self {
        Self {
            worker_registry: self.worker_registry.or(other.worker_registry),
            job_registry: self.job_registry.or(other.job_registry),
            ai_config: self.ai_config.or(other.ai_config),
            session_manager: self.session_manager.or(other.session_manager),
            reputation_registry: self.reputation_registry.or(other.reputation_registry),
            canary_ledger: self.canary_ledger.or(other.canary_ledger),
        }
    }

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

    /// The address a contract names; `None` when it names none or does not know the call. A call of an address without
    /// code gives nothing: that is no answer, and to take it for one would give the journal another identity than the node has
    /// once it has come to the contract.
    async fn optional<C: SolCall<Return = Address>>(
        &self,
        of: Address,
        call: C,
    ) -> eyre::Result<Option<Address>> {
        let call = Call { to: of, input: call.abi_encode().into() };
        match self.client.call(call, None).await {
            Ok(output) if output.is_empty() => Err(eyre::eyre!(
                "no contract at {of} yet: sync with --lcai.off first, or give it under [contracts]"
            )),
            Ok(output) => Ok(C::abi_decode_returns(&output).ok().filter(|address| !address.is_zero())),
            Err(HostError::Reverted(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Bytes;
    use lcai_host::testing::ScriptedHost;

    const CONTRACT: Address = Address::repeat_byte(0xaa);

    /// WorkerRegistry names both others, AIConfig no session manager, JobRegistry does not know the call.
    fn answer(call: &Call) -> Result<Bytes, Bytes> {
        let selector: [u8; 4] = call.input[..4].try_into().unwrap();
        match selector {
            WorkerRegistry::aiConfigCall::SELECTOR | WorkerRegistry::jobRegistryCall::SELECTOR => {
                Ok(CONTRACT.into_word().into())
            }
            AIConfig::getSessionManagerAddressCall::SELECTOR => Ok(Address::ZERO.into_word().into()),
            _ => Err(Bytes::new()),
        }
    }

    #[tokio::test]
    async fn what_the_contracts_do_not_name_is_left_open() {
        let host = ScriptedHost::new(9200);
        host.on_call(|call, _| answer(call));
        let found = AddressBook::default().resolve(&host).await.unwrap();
        assert_eq!((found.worker_registry, found.job_registry), (WORKER_REGISTRY_PREDEPLOY, CONTRACT));
        assert_eq!((found.ai_config, found.session_manager), (CONTRACT, None));
        assert_eq!((found.reputation_registry, found.canary_ledger), (None, None));
    }

    /// Without that the journal would be of other contracts than the node finds at its next start.
    #[tokio::test]
    async fn a_contract_that_is_not_there_yet_is_an_error() {
        let host = ScriptedHost::new(9200);
        let said = AddressBook::default().resolve(&host).await.unwrap_err().to_string();
        assert!(said.contains(&format!("no contract at {WORKER_REGISTRY_PREDEPLOY} yet")), "{said}");
        // WorkerRegistry is in genesis, and what it names is deployed later.
        host.on_call(|call, _| if call.to == CONTRACT { Ok(Bytes::new()) } else { answer(call) });
        let said = AddressBook::default().resolve(&host).await.unwrap_err().to_string();
        assert!(said.contains(&format!("no contract at {CONTRACT} yet")), "{said}");
        assert!(said.contains("--lcai.off") && said.contains("[contracts]"), "{said}");
        let given = AddressBook {
            session_manager: Some(CONTRACT),
            reputation_registry: Some(CONTRACT),
            ..AddressBook::default()
        };
        assert!(given.resolve(&host).await.is_ok());
    }

    #[test]
    fn a_chain_has_a_book_of_its_own_over_that_for_any() {
        let text = "job-registry = \"0x00000000000000000000000000000000000000aa\"\n\
                    canary-ledger = \"0x00000000000000000000000000000000000000ab\"\n\
                    [9200]\njob-registry = \"0x00000000000000000000000000000000000000ba\"\n";
        let books: AddressBooks = toml::from_str(text).unwrap();
        let last = |address: Option<Address>| address.map(|address| address.0[19]);
        let (ours, other) = (books.on(9200), books.on(8200));
        assert_eq!((last(ours.job_registry), last(ours.canary_ledger)), (Some(0xba), Some(0xab)));
        assert_eq!((last(other.job_registry), last(other.canary_ledger)), (Some(0xaa), Some(0xab)));
        assert_eq!(AddressBooks::default().on(9200), AddressBook::default());
        for (text, names) in [
            ("[main]\n", "main"),
            ("[9200]\njob-register = \"x\"\n", "job-register"),
            ("job = \"x\"\n", "job"),
        ] {
            let said = toml::from_str::<AddressBooks>(text).unwrap_err().to_string();
            assert!(said.contains(names), "{said}");
        }
    }
}
