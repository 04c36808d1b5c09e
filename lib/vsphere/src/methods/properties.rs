//! Reading properties, and being told of their changes.

use std::time::Duration;

use crate::{
    error::Error,
    fault::Fault,
    methods::{reference, value},
    model::read::Read,
    moref::MoRef,
    session::{Call, Client, Service, Session},
    write::Writer,
    xml::Element,
};

/// Objects in a page, and in an update: what bounds the size of an answer.
const PAGE: i64 = 100;

/// The properties of one type of object that are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The type.
    pub kind: &'a str,
    /// The paths.
    pub paths: &'a [&'a str],
}

/// Where the objects are found.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// These.
    Objects(&'a [MoRef]),
    /// Those in a view.
    View(&'a MoRef),
}

fn filter(w: &mut Writer, name: &str, wanted: &[Wanted<'_>], start: Start<'_>) {
    w.object(name, None, |w| {
        for Wanted { kind, paths } in wanted {
            w.object("propSet", None, |w| {
                w.text("type", kind);
                w.flag("all", false);
                paths.iter().for_each(|path| w.text("pathSet", path));
            });
        }
        match start {
            Start::Objects(objects) => {
                for object in objects {
                    w.object("objectSet", None, |w| {
                        w.reference("obj", object);
                        w.flag("skip", false);
                    });
                }
            }
            Start::View(view) => w.object("objectSet", None, |w| {
                w.reference("obj", view);
                w.flag("skip", true);
                w.object("selectSet", Some("TraversalSpec"), |w| {
                    w.text("name", "view");
                    w.text("type", view.kind());
                    w.text("path", "view");
                    w.flag("skip", false);
                });
            }),
        }
        // An object that went away in between is not an error of all others.
        w.flag("reportMissingObjectsInResults", true);
    });
}

/// Reads properties, page by page.
#[must_use]
pub fn retrieve_properties(collector: &MoRef, wanted: &[Wanted<'_>], start: Start<'_>) -> Call {
    Call::new("RetrievePropertiesEx", collector, |w| {
        filter(w, "specSet", wanted, start);
        w.object("options", None, |w| w.number("maxObjects", PAGE));
    })
}

/// The next page.
#[must_use]
pub fn continue_retrieve_properties(collector: &MoRef, token: &str) -> Call {
    Call::new("ContinueRetrievePropertiesEx", collector, |w| w.text("token", token))
}

/// Makes a filter, whose changes [`wait_for_updates`] tells.
#[must_use]
pub fn create_filter(collector: &MoRef, wanted: &[Wanted<'_>], start: Start<'_>) -> Call {
    Call::new("CreateFilter", collector, |w| {
        filter(w, "spec", wanted, start);
        // A change in a property is told as the whole property.
        w.flag("partialUpdates", false);
    })
}

/// Waits for changes since a version of the collector (empty: from the start).
#[must_use]
pub fn wait_for_updates(collector: &MoRef, version: &str, wait: Duration) -> Call {
    let call = Call::new("WaitForUpdatesEx", collector, |w| {
        w.text("version", version);
        w.object("options", None, |w| {
            w.number("maxWaitSeconds", i64::try_from(wait.as_secs()).unwrap_or(60));
            w.number("maxObjectUpdates", PAGE);
        });
    });
    call.patience(wait + Duration::from_secs(60))
}

/// Ends a wait that goes on.
#[must_use]
pub fn cancel_wait_for_updates(collector: &MoRef) -> Call {
    Call::new("CancelWaitForUpdates", collector, |_| {})
}

/// Ends a filter.
#[must_use]
pub fn destroy_filter(filter: &MoRef) -> Call {
    Call::new("DestroyPropertyFilter", filter, |_| {})
}

/// Makes a view of all objects of some types below a container.
#[must_use]
pub fn create_container_view(manager: &MoRef, container: &MoRef, kinds: &[&str]) -> Call {
    Call::new("CreateContainerView", manager, |w| {
        w.reference("container", container);
        kinds.iter().for_each(|kind| w.text("type", kind));
        w.flag("recursive", true);
    })
}

/// Ends a view.
#[must_use]
pub fn destroy_view(view: &MoRef) -> Call {
    Call::new("DestroyView", view, |_| {})
}

/// What was read of one object.
#[derive(Debug, Clone)]
pub struct ObjectContent {
    /// It.
    pub object: MoRef,
    /// The properties that are set: path and value.
    pub properties: Vec<(String, Element)>,
    /// Those that could not be read, and why.
    pub missing: Vec<(String, Fault)>,
}

impl ObjectContent {
    fn read(method: &str, element: Element) -> Result<Self, Error> {
        let object = Read::of(method, &element).reference("obj")?;
        let mut content = Self { object, properties: Vec::new(), missing: Vec::new() };
        for child in element.children {
            match child.name.as_str() {
                "propSet" => content.properties.extend(path_and_value(method, child, "val")?),
                "missingSet" => content.missing.push(missing(method, &child)?),
                _ => {}
            }
        }
        Ok(content)
    }

    /// A property.
    #[must_use]
    pub fn property(&self, path: &str) -> Option<&Element> {
        self.properties.iter().find(|(name, _)| name == path).map(|(_, value)| value)
    }
}

fn path_and_value(method: &str, element: Element, value: &str) -> Result<Option<(String, Element)>, Error> {
    let name = Read::of(method, &element).text("name")?.to_owned();
    Ok(element.children.into_iter().find(|child| child.name == value).map(|value| (name, value)))
}

fn missing(method: &str, element: &Element) -> Result<(String, Fault), Error> {
    let read = Read::of(method, element);
    Ok((read.text("path")?.to_owned(), Fault::from_localized(read.object("fault")?.element())))
}

/// What has become of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is new, or told for the first time.
    Enter,
    /// Some properties are different.
    Modify,
    /// It is gone.
    Leave,
}

/// What was told of one object.
#[derive(Debug, Clone)]
pub struct ObjectUpdate {
    /// It.
    pub object: MoRef,
    /// What has become of it.
    pub kind: Kind,
    /// Properties that changed: path and value, or none where it is unset now.
    pub changes: Vec<(String, Option<Element>)>,
    /// Those that can't be read, and why.
    pub missing: Vec<(String, Fault)>,
}

/// What was told at once.
#[derive(Debug, Clone)]
pub struct UpdateSet {
    /// The version of the collector to wait from next.
    pub version: String,
    /// What was told.
    pub updates: Vec<ObjectUpdate>,
    /// True where there is more to tell at once.
    pub truncated: bool,
}

impl UpdateSet {
    /// From the answer to a wait; none where nothing has changed.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn read(answer: Element) -> Result<Option<Self>, Error> {
        let method = "WaitForUpdatesEx";
        let Some(set) = answer.children.into_iter().find(|child| child.name == "returnval") else { return Ok(None) };
        let read = Read::of(method, &set);
        let (version, truncated) = (read.text("version")?.to_owned(), read.optional_flag("truncated")?.unwrap_or(false));
        let mut updates = Vec::new();
        let filters = set.children.into_iter().filter(|child| child.name == "filterSet");
        for update in filters.flat_map(|filter| filter.children).filter(|child| child.name == "objectSet") {
            let read = Read::of(method, &update);
            let kind = match read.text("kind")? {
                "enter" => Kind::Enter,
                "leave" => Kind::Leave,
                _ => Kind::Modify,
            };
            let mut told = ObjectUpdate { object: read.reference("obj")?, kind, changes: Vec::new(), missing: Vec::new() };
            for child in update.children {
                match child.name.as_str() {
                    "changeSet" => {
                        let read = Read::of(method, &child);
                        let name = read.text("name")?.to_owned();
                        let unset = matches!(read.optional_text("op"), Some("remove" | "indirectRemove"));
                        let value = if unset { None } else { child.children.into_iter().find(|child| child.name == "val") };
                        told.changes.push((name, value));
                    }
                    "missingSet" => told.missing.push(missing(method, &child)?),
                    _ => {}
                }
            }
            updates.push(told);
        }
        Ok(Some(Self { version, updates, truncated }))
    }
}

impl Client {
    /// Reads properties of objects, all pages. An object that is gone is left out.
    ///
    /// # Errors
    /// [`Error`]; `ManagedObjectNotFound` where the only object asked for is gone.
    pub async fn retrieve(&self, wanted: &[Wanted<'_>], objects: &[MoRef]) -> Result<Vec<ObjectContent>, Error> {
        match self.retrieve_once(wanted, Start::Objects(objects)).await {
            // The pages of a session die with it.
            Err(error) if error.is("NotAuthenticated") => self.retrieve_once(wanted, Start::Objects(objects)).await,
            result => result,
        }
    }

    async fn retrieve_once(&self, wanted: &[Wanted<'_>], start: Start<'_>) -> Result<Vec<ObjectContent>, Error> {
        let (service, session) = self.session().await?;
        let collector = &service.content.property_collector;
        let mut call = retrieve_properties(collector, wanted, start);
        let mut found = Vec::new();
        loop {
            let answer = self.call_in(&service, &session, &call).await?;
            let Some(page) = answer.children.into_iter().find(|child| child.name == "returnval") else { return Ok(found) };
            let token = page.text_of("token").map(str::to_owned).filter(|token| !token.is_empty());
            let before = found.len();
            for object in page.children.into_iter().filter(|child| child.name == "objects") {
                found.push(ObjectContent::read(call.method, object)?);
            }
            match token {
                Some(token) if found.len() > before => call = continue_retrieve_properties(collector, &token),
                Some(_) => return Err(Error::answer(call.method, "a page without objects says that there are more")),
                None => return Ok(found),
            }
        }
    }

    /// Reads properties of one object.
    ///
    /// # Errors
    /// [`Error`]; `ManagedObjectNotFound` where it is gone.
    pub async fn read(&self, object: &MoRef, paths: &[&str]) -> Result<ObjectContent, Error> {
        let found = self.retrieve(&[Wanted { kind: object.kind(), paths }], std::slice::from_ref(object)).await?;
        let gone = || Error::Fault {
            method: "RetrievePropertiesEx".into(),
            fault: Box::new(Fault::of("ManagedObjectNotFound").with_field("obj", object.id())),
        };
        found.into_iter().find(|content| content.object == *object).ok_or_else(gone)
    }

    pub(crate) async fn create_in(&self, service: &Service, session: &Session, call: &Call) -> Result<MoRef, Error> {
        reference(call.method, &self.call_in(service, session, call).await?)
    }
}

/// The elements of an `ArrayOf...` property.
pub(crate) fn items(array: &Element) -> impl Iterator<Item = &Element> {
    array.children.iter()
}

/// The value of an answer, for those who read it themselves.
///
/// # Errors
/// [`Error::Answer`].
pub fn returned<'a>(method: &str, answer: &'a Element) -> Result<&'a Element, Error> {
    value(method, answer)
}
