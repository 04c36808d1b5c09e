//! SOAP's envelope around an answer.

use crate::{
    error::Error,
    fault::{Fault, is_fault},
    xml::{Element, Ns},
};

/// Takes the answer to `method` out of its envelope: the element `<method>Response`, whose children are `returnval`s.
///
/// # Errors
/// [`Error::Fault`] where it is one; [`Error::Xml`] and [`Error::Answer`] where it is neither.
pub fn open(method: &str, document: &str) -> Result<Element, Error> {
    let root = Element::parse(document).map_err(|why| Error::Xml { method: method.into(), why })?;
    if root.ns != Ns::Soap || root.name != "Envelope" {
        return Err(Error::answer(method, format!("its root element is {}, not SOAP's Envelope", root.name)));
    }
    let body = root.children.into_iter().find(|child| child.ns == Ns::Soap && child.name == "Body");
    let answer = body.and_then(|body| body.children.into_iter().next()).ok_or_else(|| Error::answer(method, "its body is empty"))?;
    if is_fault(&answer) {
        return Err(Error::Fault { method: method.into(), fault: Box::new(Fault::from_soap(&answer)) });
    }
    if answer.name.strip_suffix("Response") != Some(method) {
        return Err(Error::answer(method, format!("it is a {}", answer.name)));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrap(body: &str) -> String {
        format!(
            r#"<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"#
        )
    }

    #[test]
    fn an_answer_is_taken_out() {
        let answer =
            open("CurrentTime", &wrap(r#"<CurrentTimeResponse xmlns="urn:vim25"><returnval>now</returnval></CurrentTimeResponse>"#));
        assert_eq!(answer.unwrap().text_of("returnval"), Some("now"));
        assert!(matches!(open("Logout", &wrap(r#"<CurrentTimeResponse xmlns="urn:vim25"/>"#)), Err(Error::Answer { .. })));
        assert!(matches!(open("Logout", &wrap("")), Err(Error::Answer { .. })));
        assert!(matches!(open("Logout", "<html><body>Service unavailable</body></html>"), Err(Error::Answer { .. })));
        assert!(matches!(open("Logout", "Service unavailable"), Err(Error::Xml { .. })));
    }

    #[test]
    fn a_fault_is_known_by_its_type_however_the_prefix_is_called() {
        for prefix in ["xsi", "_XMLSchema-instance"] {
            let body = format!(
                r#"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring></faultstring><detail><FileFaultFault xmlns="urn:vim25"
                xmlns:{prefix}="http://www.w3.org/2001/XMLSchema-instance" {prefix}:type="FileFault"><faultCause><fault {prefix}:type="NoDiskSpace"><file>a</file><datastore>ds1</datastore></fault><localizedMessage>full</localizedMessage></faultCause><faultMessage><key>vim.hostd.vmsvc.cbt.noEpoch</key><message>no epoch</message></faultMessage><file>[ds] a/a.vmdk</file></FileFaultFault></detail></soapenv:Fault>"#
            );
            let error = open("QueryChangedDiskAreas", &wrap(&body)).unwrap_err();
            let fault = error.fault().unwrap();
            assert_eq!((fault.kind.as_str(), fault.field("file")), ("FileFault", Some("[ds] a/a.vmdk")));
            assert!(fault.has_key("vim.hostd.vmsvc.cbt.noEpoch") && !fault.has_key("vim.hostd.vmsvc.cbt.noTrack"));
            assert_eq!(fault.cause.as_ref().map(|c| (c.kind.as_str(), c.text.as_str())), Some(("NoDiskSpace", "full")));
            assert!(error.to_string().contains("[ds] a/a.vmdk"), "{error}");
        }
    }

    #[test]
    fn a_fault_without_a_type_or_detail() {
        let named = r#"<soapenv:Fault><faultcode>a</faultcode><faultstring>b</faultstring><detail><NotAuthenticatedFault xmlns="urn:vim25"/></detail></soapenv:Fault>"#;
        assert!(open("CurrentTime", &wrap(named)).unwrap_err().is("NotAuthenticated"));
        let bare = "<soapenv:Fault><faultcode>Client</faultcode><faultstring>unable to resolve WSDL method</faultstring></soapenv:Fault>";
        let error = open("CurrentTime", &wrap(bare)).unwrap_err();
        assert_eq!(error.to_string(), "CurrentTime: SOAP fault: unable to resolve WSDL method");
    }

    proptest! {
        #[test]
        fn nothing_panics(any in ".{0,300}", body in "[<>/a-zA-Z:\"= ]{0,200}") {
            let _ = open("Login", &any);
            let _ = open("Login", &wrap(&body));
        }
    }
}
