//! From the derived definitions to the ones that are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// As Kubernetes writes quantities. `x-kubernetes-int-or-string` alone lets any text through.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Makes a derived definition ready for an apiserver.
#[must_use]
pub(crate) fn tidy(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut()) {
            walk(schema);
        }
    }
    definition
}

/// Takes a type's own description away. An optional field of an enum would show that instead of its own: where the two are joined
/// (`kube::core::schema::OptionalEnum`), the type's wins.
pub(crate) fn undescribed(schema: &mut schemars::Schema) {
    schema.remove("description");
}

fn walk(schema: &mut JSONSchemaProps) {
    // A field that may be null is a third state that no controller tells from a missing one, and `has()` is true for it. Where it may not,
    // the apiserver drops a null before it looks at anything else.
    schema.nullable = None;
    // Of the type's name in Rust nobody else knows.
    schema.title = None;
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.pattern = Some(QUANTITY.to_owned());
        schema.description = None;
    }
    if let Some(text) = &mut schema.description {
        *text = paragraphs(text);
    }
    for child in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        walk(child);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => walk(items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(walk),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        walk(values);
    }
}

/// Lines of a doc comment are joined; an empty line stays.
fn paragraphs(text: &str) -> String {
    let joined = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split("\n\n").map(joined).collect::<Vec<_>>().join("\n\n")
}
