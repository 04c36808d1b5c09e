//! Looks: everything that a pass has to know, and nothing decided.

use std::sync::Arc;

use azure::{ResourceId, disks::Disk};
use blocklog::{
    LogError,
    cycle::{Manifest, Order, Receipt, State},
    document,
    ids::{Owner, VmId},
    ledger::Ledger,
    names as blobs,
    steward::{Look, StateSeen, Steward},
};
use crds::{
    Appliance, ReplicatedVM, ReplicationCycle,
    conditions::{self, ConditionType, Status},
    names,
    reasons::Reason,
    replicated_vm::Replication,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use uuid::Uuid;
use vsphere::{MoRef, preflight::KnownDisk};

use super::{
    model::{ApplianceState, CycleSeen, Gateway, Observed, OrderSeen, Slots, Source},
    slots,
    source::{self, Asked, Known},
};
use crate::{
    appliance::{pods::Component, site::Site},
    context::Context,
    pass::SOON,
    reading::{self, Listed},
    roles,
    seeds::Which,
    trouble::Trouble,
};

/// Observes everything that a pass has to know.
///
/// # Errors
/// Where the apiserver does not answer. What else does not answer is part of what was seen.
pub async fn observe(context: &Context, object: ReplicatedVM) -> Result<Observed, Trouble> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let owner = context.owner(&namespace, &name);
    let appliance_name = object.spec.appliance_ref.name.clone();
    let (appliance, unread) = match reading::get::<Appliance>(&context.client, &namespace, &appliance_name).await?.transpose() {
        Ok(appliance) => (appliance, None),
        // It is there.
        Err(unread) => (None, Some(Trouble::from(unread.as_ref()))),
    };
    let site = context.sites.get(&namespace, &appliance_name);
    let Listed { readable: mut own, unreadable } = cycles(context, &namespace, names::VM_LABEL, &name).await?;
    // What goes on for the VM is not known then: nothing is begun, and nothing taken away.
    let unread_cycle = reading::open(&unreadable).map(|cycle| Trouble::from(cycle.as_ref()));
    // What was said of one that is closed stays: nobody would say it again.
    for cycle in unreadable.iter().filter(|cycle| reading::is_open(cycle)) {
        reading::tell::<ReplicationCycle>(context, cycle, ConditionType::Applied, Status::Unknown).await?;
    }
    own.sort_by_key(|cycle| (cycle.metadata.creation_timestamp.clone().map(|time| time.0), cycle.spec.cycle));
    let gateways = gateways(context, &namespace, &appliance_name).await?;
    let state = unread.clone().map_or_else(|| state(appliance.as_ref(), site.as_deref()), ApplianceState::Unbuilt);
    let blank = |why: Trouble, object: ReplicatedVM, own: Vec<ReplicationCycle>| Observed {
        now: context.clock.now(),
        object: Arc::new(object),
        owner: owner.clone(),
        appliance: state.clone(),
        source: Err(why.clone()),
        ledger: Err(why.clone()),
        disks: Err(why.clone()),
        due: Err(why.clone()),
        given_up: Vec::new(),
        setback: None,
        order: Err(why.clone()),
        cycles: own.into_iter().map(|cycle| CycleSeen { object: Arc::new(cycle), state: None, readable: false, proof: None }).collect(),
        unreadable: unreadable.clone(),
        gateways: gateways.clone(),
        slots: None,
        blobs: Err(why),
    };
    let (Some(appliance), Some(site)) = (appliance, site) else {
        let missing = || Trouble::new(Reason::ApplianceMissing, "the appliance is not there");
        return Ok(blank(unread.unwrap_or_else(missing), object, own));
    };
    let steward = match site.steward() {
        Ok(steward) => steward.clone(),
        Err(trouble) => return Ok(blank(trouble, object, own)),
    };
    let cleaning = object.metadata.deletion_timestamp.is_some() || object.spec.replication == Replication::Stopped;
    if let Some(unread) = unread_cycle.clone().filter(|_| cleaning) {
        return Ok(blank(unread, object, own));
    }
    let source = look_at_source(context, &site, &appliance, &object, &owner).await;
    let id = source.as_ref().ok().map(|source| source.id).or_else(|| known_id(&object));
    let Some(id) = id else {
        // Never found: there can be no ledger.
        let why = source.as_ref().err().cloned().unwrap_or_else(|| Trouble::new(Reason::NotChecked, "the VM was not looked for yet"));
        let seen = blank(why, object, own);
        return Ok(Observed { source, ledger: Ok(None), order: Ok(None), due: Ok(None), disks: Ok(Vec::new()), blobs: Ok(0), ..seen });
    };
    let ledger = read_ledger(&steward, id).await;
    let ours = ledger.as_ref().ok().and_then(Option::as_ref).filter(|ledger| ledger.owner == owner).cloned();
    let log = match &ours {
        _ if unread_cycle.is_some() => unread_cycle.map_or(Ok(None), Err),
        Some(ledger) => look_at_log(&steward, ledger, &owner).await.map(Some),
        None => Ok(None),
    };
    // A store that does not answer is asked once a pass: each question takes its time-outs, and meanwhile nobody is told what is waited for.
    let silent = ledger.as_ref().err().filter(|trouble| trouble.reason == Reason::LogStoreUnreachable).cloned();
    let order = match &silent {
        Some(trouble) => Err(trouble.clone()),
        None => read_order(&steward, &owner, id).await,
    };
    let drawn = object.status.as_ref().is_some_and(|status| status.incarnation.is_some());
    let disks = if drawn || ours.is_some() { managed_disks(context, &site, &object, &owner, ours.as_ref()).await } else { Ok(Vec::new()) };
    let left = match &silent {
        Some(trouble) if cleaning => Err(trouble.clone()),
        None if cleaning => count_blobs(&steward, id).await,
        _ => Ok(0),
    };
    let mut cycles = Vec::new();
    for cycle in own {
        cycles.push(match &silent {
            Some(_) => CycleSeen { object: Arc::new(cycle), state: None, readable: false, proof: None },
            None => look_at_cycle(&steward, cycle, ours.as_ref(), log.as_ref().ok().and_then(Option::as_ref)).await,
        });
    }
    let (due, given_up, setback) = match log {
        Ok(Some(Look { due, given_up, setback, .. })) => (Ok(Some(due)), given_up, setback),
        Ok(None) => (Ok(None), Vec::new(), None),
        Err(trouble) => (Err(trouble), Vec::new(), None),
    };
    Ok(Observed {
        now: context.clock.now(),
        object: Arc::new(object),
        owner,
        appliance: state,
        source,
        ledger,
        disks,
        due,
        given_up,
        setback,
        order,
        cycles,
        unreadable,
        gateways,
        slots: None,
        blobs: left,
    })
}

/// Whether the appliance can be worked with.
fn state(appliance: Option<&Appliance>, site: Option<&Site>) -> ApplianceState {
    let Some(appliance) = appliance else { return ApplianceState::Missing };
    let Some(site) = site else { return ApplianceState::Unbuilt(Trouble::new(Reason::NotChecked, "it is looked at first")) };
    if let Err(trouble) = site.steward() {
        return ApplianceState::Unbuilt(trouble);
    }
    let conditions = appliance.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match conditions::get(conditions, ConditionType::Ready) {
        Some(_) if conditions::is(conditions, ConditionType::Ready, Status::True) => ApplianceState::Ready,
        Some(condition) => ApplianceState::NotReady(condition.message.clone()),
        None => ApplianceState::NotReady("it was not looked at yet".to_owned()),
    }
}

/// The cycles that have this value of a label.
async fn cycles(context: &Context, namespace: &str, label: &str, value: &str) -> Result<Listed<ReplicationCycle>, Trouble> {
    Ok(reading::list(&context.client, namespace, &ListParams::default().labels(&format!("{label}={value}"))).await?)
}

/// The slots of the appliance as they are now. Only a cycle that asks for some has them looked at: it takes all cycles of the appliance.
///
/// # Errors
/// Where the apiserver does not answer, or the appliance is gone.
pub async fn slots(context: &Context, object: &ReplicatedVM) -> Result<Slots, Trouble> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), &object.spec.appliance_ref.name);
    // Before the cycles: of one that begins meanwhile the VM waits, or its cycle runs, and not neither.
    let vms = context.all_vms();
    let appliance = reading::get::<Appliance>(&context.client, &namespace, name).await?;
    let appliance = appliance.ok_or_else(|| Trouble::new(Reason::ApplianceMissing, "the appliance is not there"))?;
    let appliance = appliance.map_err(|unread| Trouble::from(unread.as_ref()))?;
    let all = cycles(context, &namespace, names::APPLIANCE_LABEL, name).await?;
    let mut slots = slots::slots(&vms, &appliance, &all.readable, &object.name_any());
    slots.holders.extend(reading::holders(&all.unreadable));
    // What can't be read is on a host all the same.
    for holder in slots.holders.iter_mut().filter(|holder| holder.host.is_none()) {
        holder.host = context.host_of(&namespace, &holder.vm);
    }
    Ok(slots)
}

/// The gateways of an appliance.
async fn gateways(context: &Context, namespace: &str, appliance: &str) -> Result<Vec<Gateway>, Trouble> {
    let labels = format!("{}={appliance},{}={}", names::APPLIANCE_LABEL, names::COMPONENT_LABEL, Component::Gateway.word());
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace).list(&ListParams::default().labels(&labels)).await?;
    Ok(pods.items.iter().map(gateway).collect())
}

fn gateway(pod: &Pod) -> Gateway {
    let name = pod.name_any();
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    // One that is told to stop takes nothing new.
    let is_ready = ready.is_some_and(|condition| condition.status == Status::True.as_str()) && pod.metadata.deletion_timestamp.is_none();
    let since = ready.and_then(|condition| condition.last_transition_time.clone()).or_else(|| pod.metadata.creation_timestamp.clone());
    Gateway { name, ready: is_ready, since: since.map_or(jiff::Timestamp::UNIX_EPOCH, |time| time.0) }
}

async fn look_at_source(
    context: &Context,
    site: &Site,
    appliance: &Appliance,
    object: &ReplicatedVM,
    owner: &Owner,
) -> Result<Source, Trouble> {
    let vcenter = site.vcenter.as_ref().map_err(Clone::clone)?;
    let inventory = vcenter.inventory.borrow().clone();
    if !inventory.complete() {
        return Err(match &inventory.trouble {
            Some(verdict) => verdict.clone().into(),
            None => Trouble { again: Some(SOON), ..Trouble::new(Reason::NotChecked, "vCenter's inventory is being read") },
        });
    }
    let identity = appliance.status.as_ref().and_then(|status| status.vcenter.as_ref());
    let vcenter_uuid = identity.and_then(|identity| Uuid::parse_str(&identity.instance_uuid).ok());
    let vcenter_uuid = vcenter_uuid.ok_or_else(|| Trouble::new(Reason::NotChecked, "it is not known yet which vCenter it is"))?;
    let known = known_id(object);
    let selector = &object.spec.vm;
    let at_path = match &selector.inventory_path {
        Some(path) if known.is_none() => vcenter.client.find_by_path(path).await?,
        _ => None,
    };
    let found = source::find(&inventory, selector, Known { uuid: known.map(|id| id.instance), at_path: at_path.as_ref() });
    let (reference, vm) = match found {
        Err(trouble) if trouble.reason == Reason::VmNotFound => return Err(not_found(&vcenter.client, object, trouble).await),
        found => found?,
    };
    let uuid = vm.instance_uuid.ok_or_else(|| Trouble::new(Reason::VmInaccessible, "vCenter tells no instance UUID of the VM"))?;
    let id = VmId { vcenter: vcenter_uuid, instance: uuid };
    taken(context, object, id)?;
    let asked = Asked { spec: &object.spec, appliance: &site.spec, owner, id };
    Ok(source::facts(&inventory, reference, vm, &asked, known_disks(object)))
}

/// A VM that is not in the inventory is gone where the reference is, too, that it had. One that our user may not see any more has its snapshots.
async fn not_found(client: &vsphere::Client, object: &ReplicatedVM, trouble: Trouble) -> Trouble {
    let last = object.status.as_ref().and_then(|status| status.vm.as_ref()).map(|vm| MoRef::vm(vm.mo_ref.clone()));
    match last {
        Some(last) => client.is_gone(&last).await.err().map_or(trouble, Trouble::from),
        None => trouble,
    }
}

/// An error where another object replicates the VM already.
fn taken(context: &Context, object: &ReplicatedVM, id: VmId) -> Result<(), Trouble> {
    let me = (object.metadata.creation_timestamp.clone().map(|time| time.0), object.namespace(), object.name_any());
    let other = context.all_vms().into_iter().find(|other| {
        let it = (other.metadata.creation_timestamp.clone().map(|time| time.0), other.namespace(), other.name_any());
        // Of two that were made in one second the name decides: not both give way.
        other.metadata.uid != object.metadata.uid && known_id(other) == Some(id) && it < me
    });
    match other {
        Some(other) => {
            let name = format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any());
            Err(Trouble::new(Reason::VmTaken, format!("{name} replicates this VM already: delete one of the two")))
        }
        None => Ok(()),
    }
}

fn known_id(object: &ReplicatedVM) -> Option<VmId> {
    let vm = object.status.as_ref()?.vm.as_ref()?;
    Some(VmId { vcenter: Uuid::parse_str(&vm.vcenter_uuid).ok()?, instance: Uuid::parse_str(&vm.instance_uuid).ok()? })
}

fn known_disks(object: &ReplicatedVM) -> Vec<KnownDisk> {
    let disks = object.status.as_ref().map(|status| status.disks.as_slice()).unwrap_or_default();
    let seeded = disks.iter().filter(|disk| disk.seed_disk.is_some());
    let known = |disk: &crds::replicated_vm::DiskStatus| {
        let capacity = u64::try_from(disk.seed_disk.as_ref()?.capacity_bytes).ok()?;
        Some(KnownDisk { key: u32::try_from(disk.key).ok()?, identity: disk.uuid.clone(), capacity })
    };
    seeded.filter_map(known).collect()
}

async fn read_ledger(steward: &Steward, id: VmId) -> Result<Option<Ledger>, Trouble> {
    Ok(document::read::<Ledger>(steward.store.as_ref(), &steward.keys, &blobs::ledger(id)).await?.map(|(ledger, _)| ledger))
}

/// What the log says is to be done, what is given up, and why what is due was not done yet.
async fn look_at_log(steward: &Steward, ledger: &Ledger, owner: &Owner) -> Result<Look, Trouble> {
    Ok(steward.look(ledger, owner, |warning: String| tracing::warn!(warning, "the log")).await?)
}

async fn read_order(steward: &Steward, owner: &Owner, id: VmId) -> Result<Option<OrderSeen>, Trouble> {
    match document::read::<Order>(steward.store.as_ref(), &steward.keys, &blobs::order(owner, id)).await {
        Ok(found) => Ok(found.map(|(order, _)| OrderSeen {
            of: order.of,
            seeds: order.seeds.into_iter().map(|(disk, seed)| (disk, seed.unique_id)).collect(),
        })),
        Err(error) => Err(error.into()),
    }
}

async fn count_blobs(steward: &Steward, id: VmId) -> Result<usize, Trouble> {
    let all = steward.store.list(&blobs::vm(id)).await?;
    Ok(all.iter().filter(|blob| blob.name != blobs::ledger(id)).count())
}

/// Ours in the resource group, and those that the ledger names, wherever they are.
async fn managed_disks(
    context: &Context,
    site: &Site,
    object: &ReplicatedVM,
    owner: &Owner,
    ledger: Option<&Ledger>,
) -> Result<Vec<Disk>, Trouble> {
    let arm = &site.target.as_ref().map_err(Clone::clone)?.arm;
    let (subscription, group) = (&site.spec.azure.subscription_id, site.group(object));
    let listed = match context.disks.list(context, arm, subscription, &group).await {
        Ok(listed) => listed,
        Err(error) => return Err(roles::pending(arm, subscription, &group, error.into()).await),
    };
    let named: Vec<ResourceId> =
        ledger.iter().flat_map(|ledger| ledger.seeds.values()).filter_map(|seed| ResourceId::parse(&seed.id).ok()).collect();
    let mut disks: Vec<Disk> = listed.iter().filter(|disk| Which::of(owner, disk).is_some() || named.contains(&disk.id)).cloned().collect();
    for id in named {
        if !disks.iter().any(|disk| disk.id == id) {
            disks.extend(arm.disk(&id).await?);
        }
    }
    Ok(disks)
}

/// A cycle with its state, which is read only where the look at the log has not done so.
async fn look_at_cycle(steward: &Steward, cycle: ReplicationCycle, ledger: Option<&Ledger>, log: Option<&Look>) -> CycleSeen {
    let mut seen = CycleSeen { object: Arc::new(cycle), state: None, readable: true, proof: None };
    let Some(of) = seen.id().filter(|_| seen.is_held()) else { return seen };
    let (store, keys) = (steward.store.as_ref(), &steward.keys);
    let found = match log.and_then(|log| log.states.get(&of)) {
        Some(StateSeen::Stands(state)) => Ok(Some(state.clone())),
        // The look has warned of it.
        Some(StateSeen::Gone | StateSeen::Damaged(_)) => Ok(None),
        None => document::read::<State>(store, keys, &blobs::state(of)).await.map(|found| found.map(|(state, _)| state)),
    };
    match found {
        Ok(state) => seen.state = state,
        // A state that can't be read is one that is gone.
        Err(LogError::Damaged { name, what }) => tracing::warn!(name, what, "a cycle's state is damaged"),
        Err(error) => {
            tracing::debug!(%error, "a cycle's state can't be read");
            seen.readable = false;
        }
    }
    let clean =
        ledger.is_some_and(|ledger| ledger.is_clean() && ledger.recovery_point.as_ref().is_some_and(|point| point.cycle == of.cycle));
    let told = seen.object.status.as_ref().and_then(|status| status.target.as_ref()).is_some_and(|target| !target.disks.is_empty());
    if clean && !told {
        // Figures for people: a cycle without them is no less applied.
        let manifest = document::read::<Manifest>(store, keys, &blobs::manifest(of)).await.ok().flatten();
        let receipt = document::read::<Receipt>(store, keys, &blobs::receipt(of)).await.ok().flatten();
        seen.proof = manifest.zip(receipt).map(|((manifest, _), (receipt, _))| Arc::new((manifest, receipt)));
    }
    seen
}
