//! The bodies that the providers take: disk, snapshot, network card, virtual machine; from the schemas of their newest versions.

use super::schema::Shape::{Beyond, Flag, List, Object, One, ReadOnly, Tags, Text, Whole};
use super::schema::{Field, Shape, may, need};

const SUB: Shape = Object("SubResource", &[need("id", Text)]);

const CREATION: Shape = Object(
    "CreationData",
    &[
        need(
            "createOption",
            One(&[
                "Empty",
                "Attach",
                "FromImage",
                "Import",
                "Copy",
                "Restore",
                "Upload",
                "CopyStart",
                "ImportSecure",
                "UploadPreparedSecure",
                "CopyFromSanSnapshot",
            ]),
        ),
        may("storageAccountId", Text),
        may("sourceUri", Text),
        may("sourceResourceId", Text),
        may("uploadSizeBytes", Whole(64)),
        may("logicalSectorSize", Whole(32)),
        may("sourceUniqueId", ReadOnly),
        may("imageReference", Beyond),
        may("galleryImageReference", Beyond),
        may("securityDataUri", Beyond),
        may("securityMetadataUri", Beyond),
        may("performancePlus", Beyond),
        may("elasticSanResourceId", Beyond),
        may("provisionedBandwidthCopySpeed", Beyond),
        may("instantAccessDurationMinutes", Beyond),
    ],
);

const ENCRYPTION: Shape =
    Object("Encryption", &[may("type", One(&["EncryptionAtRestWithPlatformKey"])), may("diskEncryptionSetId", Beyond)]);

const DISK_SECURITY: Shape =
    Object("DiskSecurityProfile", &[may("securityType", One(&["Standard", "TrustedLaunch"])), may("secureVMDiskEncryptionSetId", Beyond)]);

const CAPABILITIES: Shape = Object(
    "SupportedCapabilities",
    &[
        may("architecture", One(&["x64", "Arm64"])),
        may("acceleratedNetwork", Flag),
        may("diskControllerTypes", Text),
        may("supportedSecurityOption", Text),
    ],
);

const NETWORK_ACCESS: Shape = One(&["AllowAll", "AllowPrivate", "DenyAll"]);
const PUBLIC_ACCESS: Shape = One(&["Enabled", "Disabled"]);
const AUTH_MODE: Shape = One(&["None", "AzureActiveDirectory"]);
const OS: Shape = One(&["Windows", "Linux"]);
const GENERATION: Shape = One(&["V1", "V2"]);

const DISK_SKU: Shape = Object(
    "DiskSku",
    &[
        may(
            "name",
            One(&["Standard_LRS", "Premium_LRS", "StandardSSD_LRS", "UltraSSD_LRS", "Premium_ZRS", "StandardSSD_ZRS", "PremiumV2_LRS"]),
        ),
        may("tier", ReadOnly),
    ],
);

/// PUT of a disk.
pub const DISK: Shape = Object(
    "Disk",
    &[
        need("location", Text),
        may("tags", Tags),
        may("zones", List(&Text)),
        may("sku", DISK_SKU),
        may("extendedLocation", Beyond),
        may("id", ReadOnly),
        may("name", ReadOnly),
        may("type", ReadOnly),
        may("managedBy", ReadOnly),
        need(
            "properties",
            Object(
                "DiskProperties",
                &[
                    need("creationData", CREATION),
                    may("osType", OS),
                    may("hyperVGeneration", GENERATION),
                    may("diskSizeGB", Whole(32)),
                    may("networkAccessPolicy", NETWORK_ACCESS),
                    may("publicNetworkAccess", PUBLIC_ACCESS),
                    may("dataAccessAuthMode", AUTH_MODE),
                    may("encryption", ENCRYPTION),
                    may("securityProfile", DISK_SECURITY),
                    may("supportedCapabilities", CAPABILITIES),
                    may("tier", Text),
                    may("burstingEnabled", Flag),
                    may("supportsHibernation", Flag),
                    may("optimizedForFrequentAttach", Flag),
                    may("diskIOPSReadWrite", Whole(64)),
                    may("diskMBpsReadWrite", Whole(64)),
                    may("maxShares", Beyond),
                    may("diskIOPSReadOnly", Beyond),
                    may("diskMBpsReadOnly", Beyond),
                    may("purchasePlan", Beyond),
                    may("encryptionSettingsCollection", Beyond),
                    may("diskAccessId", Beyond),
                    may("availabilityPolicy", Beyond),
                    may("completionPercent", ReadOnly),
                    may("timeCreated", ReadOnly),
                    may("diskSizeBytes", ReadOnly),
                    may("uniqueId", ReadOnly),
                    may("provisioningState", ReadOnly),
                    may("diskState", ReadOnly),
                ],
            ),
        ),
    ],
);

/// PATCH of a disk.
pub const DISK_UPDATE: Shape = Object(
    "DiskUpdate",
    &[
        may("tags", Tags),
        may("sku", DISK_SKU),
        may(
            "properties",
            Object(
                "DiskUpdateProperties",
                &[
                    may("osType", OS),
                    may("diskSizeGB", Whole(32)),
                    may("networkAccessPolicy", NETWORK_ACCESS),
                    may("publicNetworkAccess", PUBLIC_ACCESS),
                    may("dataAccessAuthMode", AUTH_MODE),
                    may("supportedCapabilities", CAPABILITIES),
                    may("tier", Text),
                    may("burstingEnabled", Flag),
                    may("supportsHibernation", Flag),
                    may("optimizedForFrequentAttach", Flag),
                    may("encryption", Beyond),
                    may("maxShares", Beyond),
                    may("purchasePlan", Beyond),
                    may("encryptionSettingsCollection", Beyond),
                    may("diskAccessId", Beyond),
                    may("diskIOPSReadWrite", Beyond),
                    may("diskMBpsReadWrite", Beyond),
                    may("diskIOPSReadOnly", Beyond),
                    may("diskMBpsReadOnly", Beyond),
                    may("availabilityPolicy", Beyond),
                ],
            ),
        ),
    ],
);

const SNAPSHOT_SKU: Shape =
    Object("SnapshotSku", &[may("name", One(&["Standard_LRS", "Premium_LRS", "Standard_ZRS"])), may("tier", ReadOnly)]);

/// PUT of a snapshot.
pub const SNAPSHOT: Shape = Object(
    "Snapshot",
    &[
        need("location", Text),
        may("tags", Tags),
        may("sku", SNAPSHOT_SKU),
        may("extendedLocation", Beyond),
        may("id", ReadOnly),
        may("name", ReadOnly),
        may("type", ReadOnly),
        may("managedBy", ReadOnly),
        need(
            "properties",
            Object(
                "SnapshotProperties",
                &[
                    need("creationData", CREATION),
                    may("incremental", Flag),
                    may("osType", OS),
                    may("hyperVGeneration", GENERATION),
                    may("diskSizeGB", Whole(32)),
                    may("networkAccessPolicy", NETWORK_ACCESS),
                    may("publicNetworkAccess", PUBLIC_ACCESS),
                    may("dataAccessAuthMode", AUTH_MODE),
                    may("encryption", ENCRYPTION),
                    may("securityProfile", DISK_SECURITY),
                    may("supportedCapabilities", CAPABILITIES),
                    may("supportsHibernation", Flag),
                    may("purchasePlan", Beyond),
                    may("encryptionSettingsCollection", Beyond),
                    may("diskAccessId", Beyond),
                    may("copyCompletionError", ReadOnly),
                    may("completionPercent", ReadOnly),
                    may("incrementalSnapshotFamilyId", ReadOnly),
                    may("timeCreated", ReadOnly),
                    may("diskSizeBytes", ReadOnly),
                    may("uniqueId", ReadOnly),
                    may("provisioningState", ReadOnly),
                    may("diskState", ReadOnly),
                ],
            ),
        ),
    ],
);

/// PATCH of a snapshot, and of whatever else only takes tags here.
pub const TAGS: Shape = Object("TagsObject", &[may("tags", Tags)]);

/// POST beginGetAccess.
pub const GRANT: Shape = Object(
    "GrantAccessData",
    &[
        need("access", One(&["None", "Read", "Write"])),
        need("durationInSeconds", Whole(32)),
        may("fileFormat", One(&["VHD", "VHDX"])),
        may("getSecureVMGuestStateSAS", Beyond),
    ],
);

const IP_CONFIGURATION: Shape = Object(
    "NetworkInterfaceIPConfiguration",
    &[
        need("name", Text),
        may("id", ReadOnly),
        may("etag", ReadOnly),
        may("type", ReadOnly),
        need(
            "properties",
            Object(
                "NetworkInterfaceIPConfigurationPropertiesFormat",
                &[
                    may("subnet", SUB),
                    may("primary", Flag),
                    may("privateIPAddress", Text),
                    may("privateIPAllocationMethod", One(&["Dynamic", "Static"])),
                    may("privateIPAddressVersion", One(&["IPv4"])),
                    may("provisioningState", ReadOnly),
                    may("privateIPAddressPrefixLength", Beyond),
                    may("gatewayLoadBalancer", Beyond),
                    may("virtualNetworkTaps", Beyond),
                    may("applicationGatewayBackendAddressPools", Beyond),
                    may("loadBalancerBackendAddressPools", Beyond),
                    may("loadBalancerInboundNatRules", Beyond),
                    may("publicIPAddress", Beyond),
                    may("applicationSecurityGroups", Beyond),
                ],
            ),
        ),
    ],
);

/// PUT of a network card.
pub const NIC: Shape = Object(
    "NetworkInterface",
    &[
        need("location", Text),
        may("tags", Tags),
        may("extendedLocation", Beyond),
        may("id", ReadOnly),
        may("name", ReadOnly),
        may("type", ReadOnly),
        may("etag", ReadOnly),
        need(
            "properties",
            Object(
                "NetworkInterfacePropertiesFormat",
                &[
                    need("ipConfigurations", List(&IP_CONFIGURATION)),
                    may("networkSecurityGroup", SUB),
                    may("enableAcceleratedNetworking", Flag),
                    may("enableIPForwarding", Flag),
                    may("disableTcpStateTracking", Flag),
                    may(
                        "dnsSettings",
                        Object("NetworkInterfaceDnsSettings", &[may("dnsServers", List(&Text)), may("internalDnsNameLabel", Text)]),
                    ),
                    may("nicType", One(&["Standard"])),
                    may("workloadType", Beyond),
                    may("privateLinkService", Beyond),
                    may("migrationPhase", Beyond),
                    may("auxiliaryMode", One(&["None"])),
                    may("auxiliarySku", One(&["None"])),
                    may("macAddress", ReadOnly),
                    may("primary", ReadOnly),
                    may("virtualMachine", ReadOnly),
                    may("resourceGuid", ReadOnly),
                    may("provisioningState", ReadOnly),
                ],
            ),
        ),
    ],
);

const MANAGED_DISK: Shape = Object(
    "ManagedDiskParameters",
    &[
        may("id", Text),
        may("storageAccountType", Text),
        may("diskEncryptionSet", Beyond),
        may("securityProfile", Beyond),
        may("additionalDiskProperties", Beyond),
    ],
);

const CACHING: Shape = One(&["None", "ReadOnly", "ReadWrite"]);
const CREATE: Shape = One(&["FromImage", "Empty", "Attach", "Copy", "Restore"]);
const DELETE_OPTION: Shape = One(&["Delete", "Detach"]);

const OS_DISK: Shape = Object(
    "OSDisk",
    &[
        need("createOption", CREATE),
        may("osType", OS),
        may("name", Text),
        may("caching", CACHING),
        may("writeAcceleratorEnabled", Flag),
        may("diskSizeGB", Whole(32)),
        may("managedDisk", MANAGED_DISK),
        may("deleteOption", DELETE_OPTION),
        may("encryptionSettings", Beyond),
        may("vhd", Beyond),
        may("image", Beyond),
        may("diffDiskSettings", Beyond),
        may("storageFaultDomainAlignment", Beyond),
    ],
);

const DATA_DISK: Shape = Object(
    "DataDisk",
    &[
        need("lun", Whole(32)),
        need("createOption", CREATE),
        may("name", Text),
        may("caching", CACHING),
        may("writeAcceleratorEnabled", Flag),
        may("diskSizeGB", Whole(32)),
        may("managedDisk", MANAGED_DISK),
        may("deleteOption", DELETE_OPTION),
        may("toBeDetached", Flag),
        may("detachOption", One(&["ForceDetach"])),
        may("diskIOPSReadWrite", ReadOnly),
        may("diskMBpsReadWrite", ReadOnly),
        may("vhd", Beyond),
        may("image", Beyond),
        may("sourceResource", Beyond),
        may("storageFaultDomainAlignment", Beyond),
    ],
);

const NIC_REFERENCE: Shape = Object(
    "NetworkInterfaceReference",
    &[
        need("id", Text),
        may("properties", Object("NetworkInterfaceReferenceProperties", &[may("primary", Flag), may("deleteOption", DELETE_OPTION)])),
    ],
);

const STORAGE_PROFILE: Shape = Object(
    "StorageProfile",
    &[
        need("osDisk", OS_DISK),
        may("dataDisks", List(&DATA_DISK)),
        may("diskControllerType", One(&["SCSI", "NVMe"])),
        // Known, because Azure's own refusal of it (beside an attached OS disk) is a rule here.
        may("imageReference", ReadOnly),
        may("alignRegionalDisksToVMZone", Beyond),
        may("diskApiVersion", Beyond),
    ],
);

const SECURITY_PROFILE: Shape = Object(
    "SecurityProfile",
    &[
        may("securityType", One(&["Standard", "TrustedLaunch", "ConfidentialVM"])),
        may("uefiSettings", Object("UefiSettings", &[may("secureBootEnabled", Flag), may("vTpmEnabled", Flag)])),
        may("encryptionAtHost", Flag),
        may("encryptionIdentity", Beyond),
        may("proxyAgentSettings", Beyond),
    ],
);

const DIAGNOSTICS: Shape =
    Object("DiagnosticsProfile", &[may("bootDiagnostics", Object("BootDiagnostics", &[may("enabled", Flag), may("storageUri", Text)]))]);

const NETWORK_PROFILE: Shape = Object(
    "NetworkProfile",
    &[
        may("networkInterfaces", List(&NIC_REFERENCE)),
        may("networkApiVersion", Beyond),
        may("networkInterfaceConfigurations", Beyond),
        may("interconnectGroupProfile", Beyond),
    ],
);

const HARDWARE: Shape = Object("HardwareProfile", &[need("vmSize", Text), may("vmSizeProperties", Beyond), may("processorMode", Beyond)]);

const VM_PROPERTIES: &[Field] = &[
    need("hardwareProfile", HARDWARE),
    need("storageProfile", STORAGE_PROFILE),
    need("networkProfile", NETWORK_PROFILE),
    // Known, because Azure's refusal of it (beside an attached OS disk) is a rule here.
    may("osProfile", ReadOnly),
    may("securityProfile", SECURITY_PROFILE),
    may("diagnosticsProfile", DIAGNOSTICS),
    may("availabilitySet", SUB),
    may("licenseType", One(&["Windows_Server", "Windows_Client", "RHEL_BYOS", "SLES_BYOS", "None"])),
    may("priority", One(&["Regular"])),
    may("userData", Text),
    may("extensionsTimeBudget", Text),
    may("provisioningState", ReadOnly),
    may("vmId", ReadOnly),
    may("timeCreated", ReadOnly),
    may("instanceView", ReadOnly),
    may("scheduledEventsPolicy", Beyond),
    may("scheduledEventsProfile", Beyond),
    may("additionalCapabilities", Beyond),
    may("virtualMachineScaleSet", Beyond),
    may("proximityPlacementGroup", Beyond),
    may("evictionPolicy", Beyond),
    may("billingProfile", Beyond),
    may("host", Beyond),
    may("hostGroup", Beyond),
    may("platformFaultDomain", Beyond),
    may("capacityReservation", Beyond),
    may("interconnectBlockProfile", Beyond),
    may("applicationProfile", Beyond),
    may("resiliencyProfile", Beyond),
];

/// PUT of a virtual machine.
pub const VM: Shape = Object(
    "VirtualMachine",
    &[
        need("location", Text),
        may("tags", Tags),
        may("zones", List(&Text)),
        may("identity", Beyond),
        may("plan", Beyond),
        may("placement", Beyond),
        may("extendedLocation", Beyond),
        may("id", ReadOnly),
        may("name", ReadOnly),
        may("type", ReadOnly),
        may("etag", ReadOnly),
        may("resources", ReadOnly),
        need("properties", Object("VirtualMachineProperties", VM_PROPERTIES)),
    ],
);

/// PUT of a role assignment.
pub const ROLE_ASSIGNMENT: Shape = Object(
    "RoleAssignment",
    &[need(
        "properties",
        Object(
            "RoleAssignmentProperties",
            &[
                need("roleDefinitionId", Text),
                need("principalId", Text),
                may("principalType", One(&["User", "Group", "ServicePrincipal", "ForeignGroup", "Device"])),
                may("description", Text),
                may("condition", Beyond),
                may("conditionVersion", Beyond),
                may("delegatedManagedIdentityResourceId", Beyond),
            ],
        ),
    )],
);

/// PUT of a resource group.
pub const GROUP: Shape = Object(
    "ResourceGroup",
    &[
        need("location", Text),
        may("tags", Tags),
        may("id", ReadOnly),
        may("name", ReadOnly),
        may("type", ReadOnly),
        may("properties", ReadOnly),
        may("managedBy", Beyond),
    ],
);

/// POST checkNameAvailability.
pub const CHECK_NAME: Shape = Object(
    "StorageAccountCheckNameAvailabilityParameters",
    &[need("name", Text), need("type", One(&["Microsoft.Storage/storageAccounts"]))],
);
