// The detector module on a bundle's reference vectors: gradle :replay:run --args="BUNDLE FOLDER"
plugins {
    alias(libs.plugins.kotlin.jvm)
    application
}

kotlin {
    jvmToolchain(17)
}

application {
    mainClass = "ssdlite.ReplayKt"
}

dependencies {
    implementation(project(":detector"))
    implementation(libs.serialization.json)
}
