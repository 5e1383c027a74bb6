// What an app has to do around the network, in plain Kotlin: no Android, so that it runs and is tested anywhere.
plugins {
    alias(libs.plugins.kotlin.jvm)
    alias(libs.plugins.kotlin.serialization)
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    implementation(libs.serialization.json)
}
