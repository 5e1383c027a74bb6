plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "ssdlite.app"
    compileSdk = 36

    defaultConfig {
        applicationId = "org.ssdlite.example"
        minSdk = 24
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }

    flavorDimensions += "runtime"
    productFlavors {
        create("mediapipe") { dimension = "runtime" }
        create("litert") { dimension = "runtime" }
    }

    androidResources {
        noCompress += "tflite" // mapped into memory, not unpacked
        ignoreAssetsPatterns += "!golden" // the bundle's reference vectors stay out of the app
    }
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    implementation(project(":detector"))
    implementation(libs.activity)
    implementation(libs.camera.camera2)
    implementation(libs.camera.lifecycle)
    implementation(libs.camera.view)
    "mediapipeImplementation"(libs.mediapipe)
    "litertImplementation"(libs.litert)
}
