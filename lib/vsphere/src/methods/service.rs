//! What a vCenter is, and the session.

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    error::Error,
    methods::value,
    model::read::Read,
    moref::MoRef,
    session::{Call, Client, Credentials},
    xml::Element,
};

/// What a vCenter says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// For people: `VMware vCenter Server 8.0.3 build-24022515`.
    pub full_name: String,
    /// Its version: `8.0.3`.
    pub version: String,
    /// Its build.
    pub build: String,
    /// The API's version.
    pub api_version: String,
    /// True for a vCenter; false for a host, which knows no instance UUID and no folders.
    pub is_vcenter: bool,
    /// What names this vCenter for good.
    pub instance_uuid: Option<Uuid>,
}

/// The managers of a vCenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceContent {
    /// The root of the inventory.
    pub root_folder: MoRef,
    /// Reads properties.
    pub property_collector: MoRef,
    /// Makes views.
    pub view_manager: Option<MoRef>,
    /// What it says about itself.
    pub about: About,
    /// Logs in.
    pub session_manager: Option<MoRef>,
    /// Knows privileges.
    pub authorization_manager: Option<MoRef>,
    /// Finds by UUID and path.
    pub search_index: Option<MoRef>,
}

impl ServiceContent {
    /// From the answer.
    pub(crate) fn read(answer: &Element) -> Result<Self, Error> {
        let method = "RetrieveServiceContent";
        let content = Read::of(method, value(method, answer)?);
        let about = content.object("about")?;
        Ok(Self {
            root_folder: content.reference("rootFolder")?,
            property_collector: content.reference("propertyCollector")?,
            view_manager: content.reference("viewManager").ok(),
            about: About {
                full_name: about.text("fullName").unwrap_or_default().to_owned(),
                version: about.text("version")?.to_owned(),
                build: about.text("build").unwrap_or_default().to_owned(),
                api_version: about.text("apiVersion")?.to_owned(),
                is_vcenter: about.text("apiType")? == "VirtualCenter",
                instance_uuid: about.optional_uuid("instanceUuid")?,
            },
            session_manager: content.reference("sessionManager").ok(),
            authorization_manager: content.reference("authorizationManager").ok(),
            search_index: content.reference("searchIndex").ok(),
        })
    }
}

fn service_instance() -> MoRef {
    MoRef::new("ServiceInstance", "ServiceInstance")
}

/// Asks for the managers. Needs no session.
#[must_use]
pub fn retrieve_service_content() -> Call {
    Call::new("RetrieveServiceContent", &service_instance(), |_| {})
}

/// Makes a session.
#[must_use]
pub fn login(manager: &MoRef, credentials: &Credentials) -> Call {
    Call::new("Login", manager, |w| {
        w.text("userName", &credentials.user);
        w.text("password", credentials.password.reveal());
    })
}

/// Ends it.
#[must_use]
pub fn logout(manager: &MoRef) -> Call {
    Call::new("Logout", manager, |_| {})
}

/// Asks the time: what keeps a session alive.
#[must_use]
pub fn current_time() -> Call {
    Call::new("CurrentTime", &service_instance(), |_| {})
}

impl Client {
    /// vCenter's clock. A session that is asked this every ten minutes stays (it ends after about 30 idle ones; reading disks does not count).
    ///
    /// # Errors
    /// [`Error`].
    pub async fn current_time(&self) -> Result<Timestamp, Error> {
        let call = current_time();
        let answer = self.call(&call).await?;
        Read::of(call.method, &answer).time("returnval")
    }
}
